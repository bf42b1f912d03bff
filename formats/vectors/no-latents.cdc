ÍDCl—
U@0	„nothing<9D