"""MaxPool and AveragePool, of 8-bit codes and of float32."""
