"""Base models that wait in host memory while another one is loaded."""
