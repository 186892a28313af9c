"""What XLA is told in tests, which compile much and compute little.

The compiler's optimisations would double their time, and so would fusions that are compiled each
for itself. The notebooks run without these flags.
"""

FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
