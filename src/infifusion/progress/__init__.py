"""How far a run is: meters that stages advance, the file that `watch` reads, the live view."""
