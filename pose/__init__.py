"""Human pose: the skeleton, its estimation from frames and its drawing as pose-flow images."""
