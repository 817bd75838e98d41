"""`SoftmaxMixture`: the public face of a fit."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, fields
from html import escape
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from softmix_dist import __version__, summary
from softmix_dist.choices import ChoiceModel
from softmix_dist.data.dataset import as_dataset
from softmix_dist.data.fingerprint import fingerprint
from softmix_dist.data.models import read_model, write_model
from softmix_dist.data.place import place_at
from softmix_dist.demand import DemandModel
from softmix_dist.engine import blas_kernel, engine_for
from softmix_dist.errors import InputError
from softmix_dist.fit import Progress, fit
from softmix_dist.results import FitResult, Settings

if TYPE_CHECKING:
    from distributed import Client


class SoftmaxMixture(ChoiceModel, DemandModel):
    """Softmax mixture: a finite mixture of multinomial logits over many candidates.

    A draw is candidate j with probability pi_j = sum_k alpha_k softmax_j(x_j . theta_k).

    Parameters
    ----------
    n_components : int
        Number of components K.
    init : {"auto", "search", "moments", "tensor", "subspace", "random"}, array or tuple
        Where to begin: the best on a sketch of the data of a global search and the moment
        estimators ("auto"), or one of them alone; random starts that all move in the same
        passes over the data; or atoms (K, L) or (weights, atoms) in the features' own
        coordinates.
    n_init : int
        Independent searches at most, and random starts, of a method that has several.
    solver : {"auto", "newton", "em", "em-first-order"}
        "newton" takes the gradient from all data and the curvature from the sketch; "em" is
        preconditioned and accelerated, "em-first-order" takes fixed gradient steps as
        published; "auto" is "newton" with "em" where the curvature is of no use.
    l2 : float
        Penalty (l2 / 2) sum_k |eta_k|^2 on the standardised atoms, nats per draw; 0 for
        maximum likelihood.
    tol : float
        Converged when the estimated distance to the maximum is below this many standard
        errors.
    max_passes : int
        Passes over the data, after those of survey and start, after which no step is made;
        checking a claim and the gap estimate may take further ones (above 600 coefficients
        up to 40).
    precision : {"auto", "single", "double"}
        Arithmetic of the passes; "auto" turns from single to double where single can no
        longer tell. Only double passes can converge.
    random_state : int or None
        Seed.
    sketch_rows : int or None
        Rows of the sketch; default: 60 for each coefficient, 20 000 at least, up to 100 000
        where coefficients are few, and no more than hold 2^27 numbers.
    standard_errors : {"sketch", "exact", "clustered", "scaled", "none"}
        From the information on the sketch, without a pass of its own (or on all data where
        the sketch tells it too poorly), from all data by one more pass, or skipped;
        "clustered" lets the draws of each sample go together (counts of 50 samples or more),
        "scaled" multiplies those of the sketch by the root of the estimated dispersion. Of up
        to 2 000 coefficients.

    Attributes
    ----------
    weights_ : (K,) array
        Mixing weights, decreasing.
    atoms_ : (K, L) array
        Atoms in the features' own coordinates.
    log_likelihood_ : float
        Nats per draw.
    standard_errors_ : dict
        Of the ``weights``, (K,), and ``atoms``, (K, L), in the features' own coordinates.
    covariance_ : (K (L + 1), K (L + 1)) array
        Of the weights, then the atoms row by row.
    converged_ : bool
    distance_ : float
        Estimated distance to the maximum, in standard errors.
    n_passes_ : int
        Passes over the data, survey and start included.
    effective_candidates_ : (K,) array
        exp(entropy) of each component.
    history_, starts_ : list of dict
        One row for each step (a pass; a check of a claim may be several); one for each start.
    result_ : FitResult
        All of it.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((2000, 2))
    >>> choice = np.exp(features @ [1.0, -1.0])
    >>> counts = rng.multinomial(100_000, choice / choice.sum())
    >>> model = SoftmaxMixture(n_components=1).fit(features, counts)
    >>> model.converged_, np.round(model.atoms_, 1).tolist()
    (True, [[1.0, -1.0]])
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        init: Any = "auto",
        n_init: int = 8,
        solver: str = "auto",
        l2: float = 0.0,
        tol: float = 0.01,
        max_passes: int = 500,
        precision: str = "auto",
        random_state: int | None = 0,
        sketch_rows: int | None = None,
        standard_errors: str = "sketch",
    ):
        self.n_components = n_components
        self.init = init
        self.n_init = n_init
        self.solver = solver
        self.l2 = l2
        self.tol = tol
        self.max_passes = max_passes
        self.precision = precision
        self.random_state = random_state
        self.sketch_rows = sketch_rows
        self.standard_errors = standard_errors

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name, as scikit-learn asks for them.

        Parameters
        ----------
        deep : bool
            Of no effect: no parameter is an estimator.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in self._parameter_names()}

    def _plain_params(self) -> dict[str, Any]:
        # A NumPy scalar would carry its precision into the arithmetic, and is no JSON.
        params = self.get_params()
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}

    def set_params(self, **params: Any) -> SoftmaxMixture:
        """Set parameters by name.

        Parameters
        ----------
        **params
            Of the class.

        Raises
        ------
        InputError
            If there is no parameter of that name.
        """
        for name in params:
            if name not in self._parameter_names():
                raise InputError(f"no parameter {name!r}; there are {self._parameter_names()}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def fit(
        self,
        data: Any,
        counts: Any = None,
        *,
        log_base: Any = None,
        feature_names: Sequence[str] | None = None,
        client: Client | None = None,
        n_threads: int | None = None,
        device: str | None = None,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> SoftmaxMixture:
        """Fit the mixture.

        Parameters
        ----------
        data : path, Dataset, or (p, L) array of features
            NumPy or Dask array, or a pandas frame; or a data set on disk.
        counts : (p,) or (S, p) array, optional
            Draws of each candidate, in every sample; with an array of features only.
        log_base : (p,) array, optional
            Log of the base measure; -inf for candidates that are not available.
        feature_names : sequence of str, optional
        client : distributed.Client, optional
            Default: the current client if there is one, else the threads of this process.
        n_threads : int, optional
            Threads when there is no client; default: the CPUs that this process may use.
        device : {"cpu", "gpu"}, optional
            What the passes are computed on, here or on the workers; default: as configured,
            ``softmix.engine.device``, and else the CPU. A GPU needs CuPy.
        progress : callable, optional
            Called with a dict after each pass.
        checkpoint : path, optional
            Folder where the answer of each pass is kept. A fit of the same data and settings
            goes on from there, after an interrupt or a crash, and ends with the same bits. It
            stays there at the end.

        Returns
        -------
        SoftmaxMixture
            Itself.

        Raises
        ------
        InputError, StoreError
            If the data, the parameters or the checkpoint cannot be used; lists every problem.
        NumericalError
            If no start has a finite likelihood.
        ClusterError
            If the cluster was lost, or a GPU was asked for that cannot be used.
        """
        dataset = as_dataset(data, counts, log_base, feature_names)
        with closing(engine_for(client, n_threads, device)) as engine:
            settings = Settings(**self._plain_params())
            place = None if checkpoint is None else place_at(checkpoint)
            # Now, for after the fit a store that fails would cost it.
            provenance = {"name": dataset.name, **fingerprint(dataset)}
            self.result_ = fit(dataset, settings, engine, engine.watch(progress), place)
        self._dataset = dataset
        self._provenance = provenance
        self.n_features_in_ = dataset.n_features
        return self

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the fitted model as a Zarr group that xarray opens.

        Parameters
        ----------
        path : path
            Or the URL of an object store.
        overwrite : bool
            Whether a model that is there is replaced.

        Raises
        ------
        StoreError
            If the path exists already or cannot be written.

        Examples
        --------
        >>> model.save("price.zarr")
        >>> SoftmaxMixture.load("price.zarr").weights_.tolist() == model.weights_.tolist()
        True
        """
        result = self._result()
        told = asdict(result)
        arrays = {name: told.pop(name) for name in ("weights", "atoms", "standard_atoms")}
        arrays["effective_candidates"] = told.pop("effective_candidates")
        arrays["feature"] = told.pop("feature_names")
        covariance = told.pop("covariance")
        if covariance is not None:
            arrays["covariance"] = covariance
            for name, values in (self.standard_errors_ or {}).items():
                arrays[f"standard_errors_{name}"] = values
        history = told.pop("history")
        settings = self._plain_params()
        if not isinstance(settings["init"], str):
            settings["init"] = "given"
        packages = ("numpy", "scipy", "zarr", "dask", "distributed")
        attributes = {
            **told,
            "distance": told["distance"] if np.isfinite(told["distance"]) else None,
            "settings": settings,
            "data": getattr(self, "_provenance", {"name": None}),
            "versions": {"softmix-dist": __version__} | {name: version(name) for name in packages},
            "blas": blas_kernel(),
        }
        write_model(path, arrays, history, attributes, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SoftmaxMixture:
        """Read a model that `save` wrote; nothing in it is executed.

        Parameters
        ----------
        path : path
            Or the URL of an object store.

        Returns
        -------
        SoftmaxMixture

        Raises
        ------
        StoreError, InputError
            If there is no model at ``path``.
        """
        arrays, history, told = read_model(path)
        arrays["feature_names"] = [str(name) for name in arrays.pop("feature")]
        if told.get("distance") is None:
            told["distance"] = np.inf
        # Models from before there were standard errors are read as well.
        nothing = {"covariance": None, "errors_from": "none", "dispersion": None}
        values = {**nothing, **told, **arrays, "history": history}
        known = [field.name for field in fields(FitResult)]
        missing = [name for name in known if name not in values]
        if missing:
            raise InputError(f"{str(path)!r} lacks {missing}; write the model again")
        settings = told.get("settings", {})
        model = cls(**{k: v for k, v in settings.items() if k in cls._parameter_names()})
        begun = "auto" if model.init == "given" else model.init
        if not isinstance(begun, str):
            raise InputError(f"{str(path)!r}: init: expected text, found {begun!r}")
        Settings(**{**model._plain_params(), "init": begun}).check()
        data = told.get("data")
        model._provenance = data if isinstance(data, dict) else {"name": data}
        model.result_ = FitResult(**{name: values[name] for name in known})
        model.n_features_in_ = arrays["atoms"].shape[1]
        return model

    def __sklearn_tags__(self) -> Any:
        # What scikit-learn asks the last step of a pipeline; it is there when this is called.
        from sklearn.utils import Tags, TargetTags

        return Tags("density_estimator", TargetTags(required=True))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    def _repr_html_(self) -> str:
        if not hasattr(self, "result_"):
            return f"<code>{escape(repr(self))}</code>"
        return summary.as_html(self.result_, self.l2)

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        shown = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if not _same(value, defaults[name].default)
        ]
        return f"SoftmaxMixture({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    return isinstance(value, type(default)) and bool(value == default)
