"""Output change by torch.func, every gradient made in full."""

import torch
from torch.func import functional_call, jacrev, vmap


def ref_changes(module, references, X, outputs):
    """Change of every output of the references by a step on each of X with each label, every gradient made."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def of_reference(p, x):
        return outputs(functional_call(module, p, (x[None],))[0])

    def losses(p, x):
        return -functional_call(module, p, (x[None],))[0].log_softmax(0)

    J = vmap(jacrev(of_reference), in_dims=(None, 0))(parameters, references)
    g = vmap(jacrev(losses), in_dims=(None, 0))(parameters, X)
    return sum(torch.einsum("rcp,nkp->rcnk", J[name].flatten(2), g[name].flatten(2)) for name in parameters).detach()


def ref_scores(change, proba, labels):
    each = change.abs().sum(1).mean(0)
    if labels == "map":
        return each[torch.arange(len(each)), proba.argmax(1)].numpy()
    return (each * proba).sum(1).numpy()


def ref_output_change(module, references, X, labels="map"):
    with torch.no_grad():
        proba = module(X).softmax(1)
    return ref_scores(ref_changes(module, references, X, lambda logits: logits), proba, labels)
