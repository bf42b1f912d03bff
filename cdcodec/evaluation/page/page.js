const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const ORIGINAL = -1; // among the numbers of curves
const ROWS_AT_ONCE = 400;
const NO_VALUE = "–";

// Elements and numbers

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const known = (value) => value !== null && value !== undefined;
const fixed = (digits) => (value) => value.toFixed(digits).replace("-", "−");
const signed = (digits) => (value) => (value > 0 ? "+" : "") + fixed(digits)(value);
const seconds = (value) => value.toFixed(value < 0.1 ? 3 : value < 10 ? 2 : 1);
const whole = (value) => value.toLocaleString("en");
const arrow = (metric) => (metric.higher ? "↑" : "↓");
const range = ([low, high]) =>
  known(low) && known(high) ? `${low.toFixed(3)} – ${high.toFixed(3)}` : NO_VALUE;

/** Return those of `items` with the best score of a metric as it is shown; none if few have one. */
function best(items, metric) {
  const shown = (item) => Number(item.scores[metric.name].toFixed(metric.digits));
  const scored = items.filter((item) => known(item.scores[metric.name]));
  if (scored.length < 2) return [];
  const top = (metric.higher ? Math.max : Math.min)(...scored.map(shown));
  return scored.filter((item) => shown(item) === top);
}

function bestByGroup(items, metrics, group) {
  const groups = grouped(items, group);
  const found = new Map(metrics.map((metric) => [metric.name, new Set()]));
  for (const members of groups.values())
    for (const metric of metrics)
      for (const item of best(members, metric)) found.get(metric.name).add(item);
  return found;
}

function grouped(items, group) {
  const groups = new Map();
  for (const item of items) {
    const key = group(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return groups;
}

// Tables

/**
 * Fill a section's place with a table that sorts and filters.
 *
 * A column has: title; value(item), a number, a string or null; and may have unit, text(value) or
 * text(value, item), words (a column of text), falls (largest first), filter (offer its values),
 * mark(item), a class name, and press(item), what a press on the cell does or null. An item that
 * has no figures says why from column `whyFrom` on.
 */
function table(section, items, columns, { groupBy, why = () => null, whyFrom = 0 } = {}) {
  const place = byId(section).querySelector(".table");
  const sorting = { column: groupBy ?? null, falls: false };
  const wanted = new Map();
  let limit = ROWS_AT_ONCE;

  const heads = columns.map((column) => {
    const button = make("button", { type: "button" }, column.title);
    if (column.unit) button.append(make("span", { className: "unit" }, ` ${column.unit}`));
    button.addEventListener("click", () => {
      const again = sorting.column === column;
      sorting.falls = again ? !sorting.falls : Boolean(column.falls);
      sorting.column = column;
      draw();
    });
    return make("th", { scope: "col", className: column.words ? "words" : "" }, button);
  });
  const body = make("tbody", {});
  const grid = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, grid);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", byId(section).getAttribute("aria-label"));
  const count = make("span", { className: "count" });
  count.setAttribute("role", "status");
  const more = make("button", { type: "button" });
  more.addEventListener("click", () => {
    limit = Infinity;
    draw();
  });
  const filters = columns
    .filter((column) => column.filter)
    .map(filter)
    .filter(Boolean);
  place.append(make("div", { className: "filters" }, ...filters, count), scroll, more);
  draw();

  function filter(column) {
    const values = [...new Set(items.map(column.value))];
    if (values.length < 2) return null;
    if (!column.words) values.sort((a, b) => a - b);
    const all = make("option", { value: "" }, "all");
    const options = values.map((value, number) => make("option", { value: number }, String(value)));
    const select = make("select", {}, all, ...options);
    select.addEventListener("change", () => {
      wanted.delete(column);
      if (select.value) wanted.set(column, values[Number(select.value)]);
      draw();
    });
    return make("label", {}, `${column.title} `, select);
  }

  function compare(one, other) {
    const [a, b] = [sorting.column.value(one), sorting.column.value(other)];
    if (!known(a) || !known(b)) return known(b) - known(a); // missing ones are last either way
    const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return sorting.falls ? -order : order;
  }

  function draw() {
    const passing = items.filter((item) =>
      [...wanted].every(([c, value]) => c.value(item) === value),
    );
    if (sorting.column) passing.sort(compare);
    columns.forEach((column, number) => {
      if (column !== sorting.column) heads[number].removeAttribute("aria-sort");
      else heads[number].setAttribute("aria-sort", sorting.falls ? "descending" : "ascending");
    });
    const shown = passing.slice(0, limit);
    body.replaceChildren(...shown.map((item, number) => line(item, shown[number - 1])));
    count.textContent = passing.length === 1 ? "1 row" : `${whole(passing.length)} rows`;
    more.hidden = shown.length === passing.length;
    more.textContent = `Show all ${whole(passing.length)} rows`;
  }

  function line(item, before) {
    const reason = why(item);
    const cells = (reason === null ? columns : columns.slice(0, whyFrom)).map((column, number) => {
      const value = column.value(item);
      const text = known(value) ? (column.text ?? String)(value, item) : NO_VALUE;
      const classes = [column.words && "words", !known(value) && "missing", column.mark?.(item)];
      const cell = make(number ? "td" : "th", { className: classes.filter(Boolean).join(" ") });
      if (!number) Object.assign(cell, { scope: "row", title: text });
      const press = column.press?.(item);
      if (press) {
        const button = make("button", { type: "button", className: "link" }, text);
        button.title = "Show in the viewer";
        button.addEventListener("click", press);
        cell.append(button);
      } else cell.append(text);
      return cell;
    });
    if (reason !== null)
      cells.push(make("td", { className: "why", colSpan: columns.length - whyFrom }, reason));
    const starts = before && groupBy && sorting.column === groupBy;
    const changes = starts && groupBy.value(before) !== groupBy.value(item);
    return make("tr", { className: changes ? "starts" : "" }, ...cells);
  }
}

const metricColumns = (metrics, marked) =>
  metrics.map((metric) => ({
    title: `${metric.title} ${arrow(metric)}`,
    unit: metric.unit,
    value: (item) => item.scores[metric.name] ?? null,
    text: fixed(metric.digits),
    falls: metric.higher,
    mark: (item) => (marked.get(metric.name).has(item) ? "best" : ""),
  }));

const target = { title: "Target", unit: "bpp", value: (item) => item.target, filter: true };
const codec = { title: "Codec", value: (item) => item.curve, words: true, filter: true };
const rate = { title: "bpp", value: (item) => item.bpp, text: fixed(4) };
const times = [
  { title: "Encode", unit: "s", value: (item) => item.encode, text: seconds },
  { title: "Decode", unit: "s", value: (item) => item.decode, text: seconds },
];

function averages() {
  const complete = data.points.filter((point) => point.pictures === point.of);
  const marked = bestByGroup(complete, data.metrics, (point) => point.target);
  const reached = {
    title: "Pictures",
    value: (point) => point.pictures / point.of,
    text: (_, point) => `${point.pictures} of ${point.of}`,
    falls: true,
  };
  const columns = [codec, target, reached, rate, ...metricColumns(data.metrics, marked), ...times];
  const why = (point) => (point.pictures ? null : `out of reach${reason(point)}`);
  table("averages", data.points, columns, { groupBy: target, why, whyFrom: 3 });
}

/** Say why no picture reached a target, if the reason is one. */
function reason(point) {
  const same = (row) => row.curve === point.curve && row.target === point.target;
  const notes = new Set(data.rows.filter(same).map((row) => row.note));
  const [note] = notes;
  return notes.size === 1 && note ? `: ${note}` : " for every picture";
}

function deltas() {
  if (!data.deltas.length) {
    byId("deltas")
      .querySelector(".table")
      .append(make("p", { className: "note" }, "None were made."));
    return;
  }
  const metrics = new Map(data.metrics.map((metric) => [metric.name, metric]));
  const metricOf = (delta) =>
    metrics.get(delta.metric) ?? { title: delta.metric, unit: "", digits: 3 };
  const good = (value, better) => (!value ? "" : better ? "good" : "bad");
  table("deltas", data.deltas, [
    codec,
    { title: "Against", value: (delta) => delta.reference, words: true, filter: true },
    {
      title: "Metric",
      value: (delta) => `${metricOf(delta).title} ${arrow(metricOf(delta))}`,
      words: true,
      filter: true,
    },
    {
      title: "Rate",
      unit: "%",
      value: (delta) => delta.rate,
      text: signed(1),
      mark: (delta) => good(delta.rate, delta.rate < 0),
    },
    {
      title: "Overlap",
      unit: "bpp",
      value: (delta) => delta.rates[0],
      text: (_, delta) => range(delta.rates),
    },
    {
      title: "Score",
      value: (delta) => delta.score,
      text: (value, delta) =>
        `${signed(metricOf(delta).digits)(value)} ${metricOf(delta).unit}`.trim(),
      mark: (delta) => good(delta.score, delta.score > 0 === metricOf(delta).higher),
    },
    {
      title: "Overlap",
      unit: "bpp",
      value: (delta) => delta.scoreRates[0],
      text: (_, delta) => range(delta.scoreRates),
    },
    { title: "Targets", value: (delta) => delta.points, falls: true },
    {
      title: "Pictures",
      value: (delta) => delta.pictures,
      text: (value, delta) => `${value} of ${delta.of}`,
      falls: true,
    },
    ...(data.deltas.some((delta) => delta.note)
      ? [{ title: "Note", value: (delta) => delta.note || null, words: true }]
      : []),
  ]);
}

function everyPicture(show) {
  const perPicture = data.metrics.filter((metric) => !metric.whole);
  const group = (row) => JSON.stringify([row.picture, row.target]);
  const places = new Map(data.curves.map((curve, number) => [curve.name, number]));
  const rows = [...data.rows].sort(
    (a, b) => a.target - b.target || places.get(a.curve) - places.get(b.curve),
  );
  const marked = bestByGroup(
    data.rows.filter((row) => row.reached),
    perPicture,
    group,
  );
  const picture = {
    title: "Picture",
    value: (row) => row.picture,
    words: true,
    filter: true,
    press: (row) =>
      show && viewed.some((each) => each.name === row.picture) ? () => show(row) : null,
  };
  const columns = [
    picture,
    codec,
    target,
    { title: "Bytes", value: (row) => row.bytes, text: whole },
    rate,
    ...metricColumns(perPicture, marked),
    ...times,
    { title: "Setting", value: (row) => row.setting || null, words: true },
  ];
  const why = (row) => (row.reached ? null : outOfReach(row));
  table("rows", rows, columns, { groupBy: picture, why, whyFrom: 3 });
}

const outOfReach = (row) => (row.note ? `out of reach: ${row.note}` : "out of reach");

// Viewer

const viewed = data.pictures.filter((picture) => picture.original !== null);

function viewer() {
  const rows = new Map(
    data.rows.map((row) => [JSON.stringify([row.picture, row.target, row.curve]), row]),
  );
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const compare = byId("compare").querySelector(".window");
  const panes = byId("workbench").querySelector(".panes");
  const bench = byId("workbench");
  const [leftTag, rightTag] = compare.querySelectorAll(".tag");
  const layers = Object.fromEntries(
    ["original", "left", "right", "beside"].map((n) => [n, byId(`layer-${n}`)]),
  );
  const state = { zoom: 0, wipe: 50, x: 0.5, y: 0.5, shown: null, timer: 0, left: 0, right: 0 };
  const view = { scale: 1, left: 0, width: 0, divider: 0, movable: false };

  const picture = () => viewed[Number(byId("picture").value)];
  const bpp = () => data.targets[Number(byId("target").value)];
  const rowOf = (curve) =>
    rows.get(JSON.stringify([picture().name, bpp(), data.curves[curve]?.name]));
  const nameOf = (curve) => (curve === ORIGINAL ? "Original" : data.curves[curve].name);

  fill(
    "picture",
    viewed.map((each) => each.name),
  );
  fill(
    "target",
    data.targets.map((each) => `${each} bpp`),
  );
  for (const side of ["left", "right"]) {
    fill(
      side,
      data.curves.map((curve) => curve.name),
    );
    byId(side).append(make("option", { value: ORIGINAL }, "Original"));
    byId(side).addEventListener("change", update);
  }
  // Two codecs, rather than one with two numbers of steps, at the lowest target of both.
  state.right = Math.max(
    data.curves.findIndex((curve) => curve.codec !== data.curves[0].codec),
    0,
  );
  byId("left").value = 0;
  byId("right").value = state.right;
  const both = (target) => {
    byId("target").value = target;
    return rowOf(0)?.reached && rowOf(state.right)?.reached;
  };
  byId("target").value = Math.max([...data.targets.keys()].findIndex(both), 0);

  for (const id of ["picture", "target"]) byId(id).addEventListener("change", update);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("zoom").addEventListener("click", ({ target: button }) => {
    if (button.matches("button")) zoom(Number(button.value));
  });
  byId("beside").addEventListener("change", layout);
  byId("wipe").addEventListener("input", () => wipe(Number(byId("wipe").value)));
  byId("blink").addEventListener("click", blink);
  byId("interval").addEventListener("change", () => state.timer && start());
  for (const pane of panes.querySelectorAll(".window")) {
    pane.addEventListener("pointerdown", press);
    pane.addEventListener("wheel", scroll, { passive: false });
  }
  document.addEventListener("keydown", key);
  new ResizeObserver(() => requestAnimationFrame(layout)).observe(bench);
  calm.addEventListener("change", rest);
  rest();
  // Beside each other is no use where one lies below the other.
  byId("beside").checked = bench.clientWidth >= 700;
  update();

  function fill(id, names) {
    byId(id).append(...names.map((name, value) => make("option", { value }, name)));
  }

  function turn(by) {
    byId("picture").value = (Number(byId("picture").value) + by + viewed.length) % viewed.length;
    update();
  }

  function update() {
    state.left = Number(byId("left").value);
    state.right = Number(byId("right").value);
    for (const name of ["left", "right"]) {
      for (const option of byId(name).options) {
        const row = rowOf(Number(option.value));
        const lacks = row && !row.reached ? " (out of reach)" : "";
        option.textContent = nameOf(Number(option.value)) + lacks;
      }
      paint(layers[name], state[name]);
    }
    paint(layers.original, ORIGINAL);
    paint(layers.beside, ORIGINAL);
    figures();
    layout();
  }

  /** Put a codec's picture into a layer, or say why there is none. */
  function paint(layer, curve) {
    const [img, message] = layer.children;
    const row = rowOf(curve);
    const number = curve === ORIGINAL ? picture().original : (row?.image ?? null);
    img.hidden = number === null;
    message.hidden = number !== null;
    if (number !== null) {
      img.src = byId(`image-${number}`).textContent;
      img.alt = `${picture().name}, ${nameOf(curve)}`;
    } else {
      img.removeAttribute("src");
      const why = !row ? "not measured" : row.reached ? "no picture was kept" : outOfReach(row);
      message.textContent = `${nameOf(curve)}, ${why}`;
    }
  }

  function figures() {
    const sides = [state.left, state.right].map((curve) =>
      curve === ORIGINAL ? null : rowOf(curve),
    );
    const reached = sides.filter((row) => row?.reached);
    const marks = ["left", "right"].map((side) =>
      make("i", { className: `mark ${side}` }, side[0].toUpperCase()),
    );
    const list = make("dl", {});
    const add = (title, texts, className = "") =>
      list.append(make("div", { className }, make("dt", {}, title), ...texts));
    const names = [state.left, state.right].map((curve, side) => {
      const lacks = sides[side] && !sides[side].reached ? ", out of reach" : "";
      return make("dd", {}, marks[side], ` ${nameOf(curve)}${lacks}`);
    });
    add(`${picture().name}, ${bpp()} bpp`, names, "names");
    const figure = (title, value, text, winners = []) =>
      add(
        title,
        sides.map((row) => {
          const has = row && known(value(row));
          return make(
            "dd",
            { className: winners.includes(row) ? "best" : "" },
            has ? text(value(row)) : NO_VALUE,
          );
        }),
      );
    figure("Bytes", (row) => row.bytes, whole);
    figure("bpp", (row) => row.bpp, fixed(4));
    for (const metric of data.metrics.filter((each) => !each.whole)) {
      const title = [metric.title, arrow(metric), metric.unit].join(" ");
      const winners = reached.length === 2 ? best(reached, metric) : [];
      figure(
        title,
        (row) => row.scores[metric.name],
        fixed(metric.digits),
        winners.length === 1 ? winners : [],
      );
    }
    figure("Encode s", (row) => row.encode, seconds);
    figure("Decode s", (row) => row.decode, seconds);
    byId("figures").replaceChildren(list);
  }

  /** Place pictures and divider by the state; all panes show the same part. */
  function layout() {
    const { width, height } = picture();
    panes.classList.toggle("alone", !byId("beside").checked);
    const across = compare.clientWidth;
    if (!across) return;
    const room = Math.max(0.65 * innerHeight, 200);
    const down = Math.round(
      Math.max(Math.min((across * height) / width, height, room), Math.min(200, room)),
    );
    for (const pane of panes.querySelectorAll(".window")) {
      pane.style.height = `${down + 2}px`; // with borders
    }
    view.scale = state.zoom || Math.min(1, across / width, down / height);
    const [w, h] = [width * view.scale, height * view.scale];
    const offset = (length, space, centre) =>
      length <= space
        ? (space - length) / 2
        : Math.min(0, Math.max(space - length, space / 2 - centre * length));
    const [x, y] = [Math.round(offset(w, across, state.x)), Math.round(offset(h, down, state.y))];
    if (w > across) state.x = (across / 2 - x) / w;
    if (h > down) state.y = (down / 2 - y) / h;
    for (const {
      children: [img],
    } of Object.values(layers))
      Object.assign(img.style, {
        width: `${w}px`,
        height: `${h}px`,
        transform: `translate(${x}px, ${y}px)`,
      });
    view.movable = w > across + 1 || h > down + 1;
    view.left = Math.max(0, x);
    view.width = Math.min(across, x + w) - view.left;
    view.divider = view.left + (state.wipe / 100) * view.width;
    bench.classList.toggle("zoomed", view.movable);
    bench.classList.toggle("pixelated", view.scale > 1);
    bench.classList.toggle("wiped", !state.shown);
    bench.classList.toggle("blinking", Boolean(state.shown));
    compare.style.setProperty("--at", `${view.divider}px`);
    layers.left.style.clipPath = state.shown ? "" : `inset(0 ${across - view.divider}px 0 0)`;
    layers.right.style.clipPath = state.shown ? "" : `inset(0 0 0 ${view.divider}px)`;
    layers.original.hidden = state.shown !== "original";
    layers.left.hidden = state.shown !== null && state.shown !== "left";
    layers.right.hidden = state.shown !== null && state.shown !== "right";
    leftTag.textContent = state.shown === "original" ? "Original" : nameOf(state.left);
    rightTag.textContent = nameOf(state.right);
    leftTag.hidden = state.shown === "right";
    rightTag.hidden = state.shown !== null && state.shown !== "right";
    // Names stand on their pictures, where these are narrower than the window.
    const [first, last] = [view.left, across - view.left - view.width];
    for (const tag of bench.querySelectorAll(".tag")) {
      tag.style[tag === rightTag ? "right" : "left"] = `${6 + (tag === rightTag ? last : first)}px`;
      tag.style.maxWidth = `${view.width / (state.shown ? 1 : 2) - 12}px`;
    }
    // The middle of the thumb lies under the divider.
    Object.assign(byId("wipe").style, {
      marginLeft: `${view.left - 7}px`,
      width: `${view.width + 16}px`,
    });
  }

  function wipe(percent) {
    stop();
    state.wipe = Math.min(100, Math.max(0, percent));
    byId("wipe").value = state.wipe;
    layout();
  }

  function zoom(scale) {
    state.zoom = scale;
    for (const button of byId("zoom").children)
      button.setAttribute("aria-pressed", String(Number(button.value) === scale));
    layout();
  }

  /** Move the part that is shown by CSS pixels; tell whether it moved. */
  function pan(right, down) {
    const [x, y] = [state.x, state.y];
    const { width, height } = picture();
    state.x += right / (width * view.scale);
    state.y += down / (height * view.scale);
    layout();
    return Math.abs(state.x - x) * width > 0.01 || Math.abs(state.y - y) * height > 0.01;
  }

  function press(event) {
    if (event.button !== 0) return;
    const pane = event.currentTarget;
    const at = (moved) => moved.clientX - pane.getBoundingClientRect().left - pane.clientLeft;
    const near = !state.shown && Math.abs(at(event) - view.divider) < 24;
    const wiping = pane === compare && (near || !view.movable);
    if (!wiping && !view.movable) return;
    const grip = near ? view.divider - at(event) : 0;
    const follow = (moved) => wipe((100 * (at(moved) + grip - view.left)) / view.width);
    let [x, y] = [event.clientX, event.clientY];
    const move = (moved) => {
      if (wiping) follow(moved);
      else pan(x - moved.clientX, y - moved.clientY);
      [x, y] = [moved.clientX, moved.clientY];
    };
    const end = () => {
      pane.removeEventListener("pointermove", move);
      bench.classList.remove("dragging");
    };
    pane.setPointerCapture(event.pointerId);
    bench.classList.toggle("dragging", !wiping);
    pane.addEventListener("pointermove", move);
    pane.addEventListener("lostpointercapture", end, { once: true });
    // A finger may be about to scroll the page.
    if (wiping && event.pointerType === "mouse") follow(event);
  }

  function scroll(event) {
    if (event.ctrlKey || !view.movable) return;
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const [x, y] =
      event.shiftKey && !event.deltaX ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
    if (pan(x * unit, y * unit)) event.preventDefault(); // at its edge the page scrolls on
  }

  function blink() {
    if (calm.matches) step();
    else if (state.timer) stop();
    else {
      step();
      start();
    }
  }

  function start() {
    clearInterval(state.timer);
    state.timer = setInterval(step, Number(byId("interval").value));
    byId("blink").setAttribute("aria-pressed", "true");
  }

  function stop() {
    clearInterval(state.timer);
    state.timer = 0;
    state.shown = null;
    byId("blink").setAttribute("aria-pressed", "false");
    layout();
  }

  /** Show the next one whole; by hand the wipe comes round too. */
  function step() {
    const third = byId("with-original").checked && ![state.left, state.right].includes(ORIGINAL);
    const order = [
      "left",
      "right",
      ...(third ? ["original"] : []),
      ...(calm.matches ? [null] : []),
    ];
    state.shown = order[(order.indexOf(state.shown ?? "") + 1) % order.length];
    layout();
  }

  function rest() {
    stop();
    byId("blink").textContent = calm.matches ? "Blink by hand" : "Blink";
    byId("interval").parentElement.hidden = calm.matches;
  }

  function key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const box = bench.getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) return;
    const taken = event.target.closest("select, .scroll, .plots");
    if (event.key.toLowerCase() === "b" && !taken) return blink();
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      event.key
    ] ?? [0, 0];
    if ((!x && !y) || taken || event.target.closest("input")) return;
    if (event.shiftKey ? pan(48 * x, 48 * y) : x) event.preventDefault();
    if (!event.shiftKey && x) turn(x);
  }

  return (row) => {
    const curve = data.curves.findIndex((each) => each.name === row.curve);
    byId("picture").value = viewed.findIndex((each) => each.name === row.picture);
    byId("target").value = data.targets.indexOf(row.target);
    if (![state.left, state.right].includes(curve)) byId("right").value = curve;
    stop();
    update();
    byId("viewer").scrollIntoView();
    byId("picture").focus({ preventScroll: true });
  };
}

byId("embedded").textContent = viewed.length
  ? `${viewed.length} of ${data.pictures.length} pictures are in this page, as WebP of quality ` +
    `${byId("embedded").dataset.quality}; all figures are of the exact pixels.`
  : "No pictures are in this page.";
byId("workbench").hidden = !viewed.length;
averages();
deltas();
everyPicture(viewed.length ? viewer() : null);
