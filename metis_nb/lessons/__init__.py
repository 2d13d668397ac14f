"""What only a teacher needs: exact values, probes with known answers, results of long runs."""
