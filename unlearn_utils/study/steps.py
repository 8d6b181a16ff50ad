"""The name under which saved notebooks keep the interactive view of a method's steps."""

MIME = "application/vnd.unlearn.steps+json"
