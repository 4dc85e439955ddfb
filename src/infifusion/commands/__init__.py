"""The commands, one function each: parse, validate, then import the stage that does the work."""
