"""Other frameworks' settings in rmexp's terms: a table each, and what they share."""
