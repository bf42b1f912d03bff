"""Building blocks of the networks that several families share."""
