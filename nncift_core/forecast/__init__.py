"""What a run will cost before it is started: unit costs measured on this machine, forecasts, break-even."""
