"""What is in a file of weights, for `rushes inspect`: nothing is merged, and no base model is needed.

It reads files with `lora.reading`, so that it says what sampling would do.
"""
