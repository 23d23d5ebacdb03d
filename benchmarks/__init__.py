"""Speed and endurance, measured by hand: never run by the tests, results recorded in `results/`."""
