"""What a backtest found, as figures and as one page that needs nothing else."""
