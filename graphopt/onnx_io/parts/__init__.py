"""Parts of a file, read and written: tensors, attributes, and fields that the IR has no place for."""
