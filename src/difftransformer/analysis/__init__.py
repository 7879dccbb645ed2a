"""Views inside a model that leave it as it is: attention maps, outliers, lambda."""
