from service.generated.penfield.v1 import model_pb2 as _model_pb2
from service.generated.penfield.v1 import progress_pb2 as _progress_pb2
from service.generated.penfield.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClusterRequest(_message.Message):
    __slots__ = ("model", "n_clusters", "rois", "options_json", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    N_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    ROIS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelReference
    n_clusters: int
    rois: _containers.RepeatedScalarFieldContainer[str]
    options_json: str
    seed: int
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelReference, _Mapping]] = ..., n_clusters: _Optional[int] = ..., rois: _Optional[_Iterable[str]] = ..., options_json: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class ClusterResponse(_message.Message):
    __slots__ = ("progress", "partition")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    progress: _progress_pb2.Progress
    partition: Partition
    def __init__(self, progress: _Optional[_Union[_progress_pb2.Progress, _Mapping]] = ..., partition: _Optional[_Union[Partition, _Mapping]] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("assignments", "stimuli", "score", "final")
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    STIMULI_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    assignments: _tensor_pb2.Tensor
    stimuli: _tensor_pb2.Tensor
    score: float
    final: bool
    def __init__(self, assignments: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., stimuli: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., score: _Optional[float] = ..., final: _Optional[bool] = ...) -> None: ...

class AssignUnitsRequest(_message.Message):
    __slots__ = ("start", "presentation")
    START_FIELD_NUMBER: _ClassVar[int]
    PRESENTATION_FIELD_NUMBER: _ClassVar[int]
    start: AssignUnitsStart
    presentation: Presentation
    def __init__(self, start: _Optional[_Union[AssignUnitsStart, _Mapping]] = ..., presentation: _Optional[_Union[Presentation, _Mapping]] = ...) -> None: ...

class AssignUnitsStart(_message.Message):
    __slots__ = ("clustering", "unit_ids")
    CLUSTERING_FIELD_NUMBER: _ClassVar[int]
    UNIT_IDS_FIELD_NUMBER: _ClassVar[int]
    clustering: _model_pb2.ModelReference
    unit_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, clustering: _Optional[_Union[_model_pb2.ModelReference, _Mapping]] = ..., unit_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Presentation(_message.Message):
    __slots__ = ("cluster", "responses")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    cluster: int
    responses: _tensor_pb2.Tensor
    def __init__(self, cluster: _Optional[int] = ..., responses: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class AssignUnitsResponse(_message.Message):
    __slots__ = ("assignments", "probabilities", "next_cluster")
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    assignments: _tensor_pb2.Tensor
    probabilities: _tensor_pb2.Tensor
    next_cluster: int
    def __init__(self, assignments: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., probabilities: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., next_cluster: _Optional[int] = ...) -> None: ...
