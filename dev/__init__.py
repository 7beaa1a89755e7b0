"""What maintains this repository; it is not installed."""
