"""The regression gate: tiny runs compared with a committed baseline, exactly or by their scores."""
