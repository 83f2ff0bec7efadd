"""What of the vLLM adapter needs neither vLLM nor torch: the account of copies that are under way."""
