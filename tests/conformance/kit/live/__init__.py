"""The live matrix: processes of one language that send to processes of another, on a bus of their own."""
