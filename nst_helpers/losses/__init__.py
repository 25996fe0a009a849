"""Loss functions: content and style of Gatys et al. (`gatys`), total variation, and alternatives to both."""
