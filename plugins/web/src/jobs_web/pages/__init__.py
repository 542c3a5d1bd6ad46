"""The pages: one module a page, each with the actions that it offers."""
