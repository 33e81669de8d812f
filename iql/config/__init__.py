"""Reading, checking and locating configurations, without torch; may import system and errors."""
