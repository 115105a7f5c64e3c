"""Matrix products and convolutions, with constant or dynamically quantized operands, and their epilogues."""
