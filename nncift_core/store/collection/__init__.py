"""`nncift gc`: what no kept run needs, and how it goes without harm to what lives.

`keep` chooses the results that stay, `living` follows them to rows and files, `plan` says what goes and why,
`apply` does it so that a kill at any moment costs nothing.
"""

from nncift_core.store.collection.apply import collect
from nncift_core.store.collection.plan import Plan, plan_collection

__all__ = ["Plan", "collect", "plan_collection"]
