ÍDCl—
U@0