"""Names, resources and files: the basis of everything else.

Imports no other package of ActorHub but `errors`.
"""
