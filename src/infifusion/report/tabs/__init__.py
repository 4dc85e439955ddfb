"""What the tabs of the report show."""
