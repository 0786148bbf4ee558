"""What MLflow shows first: the charts of reward, entropy, KL and right answers, in its mode for models that are trained.

MLflow keeps a view that somebody shares as a tag of the experiment, and opens it by its name in the address. Without one its
page begins with its mode for language model applications, then with every metric in the order of the alphabet.
"""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

_NAME = "pgsrm"
_CHARTS = {
    "reward/mean": "reward",
    "policy/entropy": "entropy",
    "policy/kl": "KL from the reference policy",
    "eval/train_exact_match": "right answers, trained prompts",
    "eval/holdout_exact_match": "right answers, held-out prompts",
    # Of tasks without right answers. The page hides charts that none of its runs has, and has room for no more: a tag of
    # MLflow's holds 5,000 characters.
    "reward/extrinsic": "extrinsic reward",
    "eval/holdout_gold": "gold measure, held out",
    "eval/holdout_kl": "KL per response, held out",
}
# The part of the page's address behind the experiment's id.
PAGE = f"runs?compareRunsMode=CHART&workflowType=machine_learning&viewStateShareKey={_NAME}"


def set_view(client: "MlflowClient", experiment: "Experiment") -> None:
    """Give the experiment the view that `PAGE` opens, and the mode that its page has without an address."""
    wanted = {f"mlflow.sharedViewState.{_NAME}": _state(), "mlflow.experimentKind": "custom_model_development"}
    for name, value in wanted.items():
        if experiment.tags.get(name) != value:
            client.set_experiment_tag(experiment.experiment_id, name, value)


def _state() -> str:
    """The page's state as MLflow 3.17 writes it; what is left out has its defaults there."""
    section = "pgsrm-training"
    charts = [
        {
            "uuid": f"pgsrm-{place}",
            "type": "LINE",
            "runsCountToCompare": 10,
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": False,
            "displayName": title,
            "metricKey": metric,
            "selectedMetricKeys": [metric],
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "selectedYAxisMetricKey": "",
            "scaleType": "linear",
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
            "xAxisScaleType": "linear",
            "lineSmoothness": 0,
            "useGlobalLineSmoothing": True,
            "useGlobalXaxisKey": True,
            "range": {},
        }
        for place, (metric, title) in enumerate(_CHARTS.items())
    ]
    sections = [
        {
            "uuid": section,
            "name": "What is learned",
            "display": True,
            "isReordered": True,
            "deleted": False,
            "isGenerated": False,
        }
    ]
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": ["attributes.`Source`", "attributes.`Duration`"],
        "runsHiddenMode": "FIRST_20_RUNS",
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "compareRunCharts": charts,
        "compareRunSections": sections,
    }
    return json.dumps(state, separators=(",", ":"))
