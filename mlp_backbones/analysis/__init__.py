"""Looking at models and runs: complexity, throughput, curves, pictures."""
