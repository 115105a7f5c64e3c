"""Matrix products and convolutions, with constant or quantized-while-running operands, and their epilogues."""
