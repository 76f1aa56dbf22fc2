"""How does a person see it? HTML pages: templates, pictures, charts."""
