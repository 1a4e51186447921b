"""The only place that knows where files lie."""
