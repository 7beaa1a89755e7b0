"""What training and testing need and MMEngine lacks."""
