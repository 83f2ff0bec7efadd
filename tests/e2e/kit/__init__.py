"""What the end-to-end scenarios are written with: objects of a real API server, a real engine's answers, bounded waits."""
