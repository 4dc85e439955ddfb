"""What the pages show: one file per page, and one per part of a run's page."""
