"""Zoo: one page per model: paper, drawing, variants, weight rules, measured scores."""
