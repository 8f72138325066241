"""The two collections of an index in Milvus: its passages and its settings."""

from __future__ import annotations

from typing import Any

# Bytes, the most that each text may have.
TEXTS = {
    "document": 1024, "title": 8192, "text": 65535, "terms": 65535, "source": 4096, "url": 4096, "region": 256,
    "language": 64, "spoken": 64, "kind": 256, "in_force_from": 10, "in_force_to": 10, "signature": 32,
    "content_hash": 32,
}  # fmt: skip


def passages(dimension: int) -> tuple[Any, Any]:
    """Schema and indexes; no dense vector where there is no embedder."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=1024)
    for field, length in TEXTS.items():
        # milvus-lite has no tokenizer that only splits at spaces: terms are written so that "standard" does that.
        more = {"enable_analyzer": True, "analyzer_params": {"tokenizer": "standard"}} if field == "terms" else {}
        schema.add_field(field, DataType.VARCHAR, max_length=length, **more)
    tags = {"element_type": DataType.VARCHAR, "max_capacity": 64, "max_length": 256}
    schema.add_field("tags", DataType.ARRAY, **tags)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(Function("bm25", FunctionType.BM25, input_field_names=["terms"], output_field_names=["sparse"]))
    indexes = MilvusClient.prepare_index_params()
    weights = {"bm25_k1": 1.2, "bm25_b": 0.75}
    indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=weights)
    if dimension:
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
        indexes.add_index("dense", index_type="AUTOINDEX", metric_type="COSINE")
    return schema, indexes


def settings() -> tuple[Any, Any]:
    """Schema and indexes of the collection of settings."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=256)
    schema.add_field("value", DataType.VARCHAR, max_length=65535)
    schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # a collection must have a vector
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("unused", index_type="AUTOINDEX", metric_type="L2")
    return schema, indexes
