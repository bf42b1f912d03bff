"""What quality and speed are; run by hand, as each module says, never by pytest."""
