"""What a run will cost, by arithmetic alone: shapes, bytes, FLOPs, memory, seconds."""
