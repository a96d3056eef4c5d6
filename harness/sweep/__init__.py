"""Many runs from one description: what a grid stands for, and who carries its runs out."""
