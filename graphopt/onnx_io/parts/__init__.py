"""Reading and writing of parts of a file: tensors, attributes, and fields without a place in the IR."""
