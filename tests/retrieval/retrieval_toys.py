"""A toy embedder and a few principles."""

import hashlib
import re

import numpy as np

from retrieval.passage import Passage


class Words:
    """A bag of words, hashed: near texts share words. Counts its calls."""

    languages: frozenset[str] = frozenset()

    def __init__(self, name: str = "words", dimension: int = 64, limit: int = 60) -> None:
        self.id, self.dimension, self.limit, self.batches = f"{name}/{dimension}", dimension, limit, []

    def count(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text))

    def documents(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._one(text) for text in texts]) if texts else np.zeros((0, self.dimension), np.float32)

    def queries(self, texts: list[str]) -> np.ndarray:
        self.batches.append(len(texts))
        return self.documents(texts)

    def _one(self, text: str) -> np.ndarray:
        vector = np.full(self.dimension, 1e-3, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            vector += np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)
        return vector / np.linalg.norm(vector)


RULES = [
    Passage("udhr-1", "All human beings are born free and equal in dignity and rights.", title="UDHR, article 1",
            source="udhr", language="en", kind="declaration", tags=("rights",)),
    Passage("udhr-3", "Everyone has the right to life, liberty and security of person.", title="UDHR, article 3",
            source="udhr", language="en", kind="declaration", tags=("rights", "security")),
    Passage("udhr-5", "No one shall be subjected to torture or to degrading treatment.", title="UDHR, article 5",
            source="udhr", language="en", kind="declaration"),
    Passage("ca-9", "A dog must be kept on a leash in every public park.", title="Park rules, s. 9", source="parks",
            region="Ontario", language="en", kind="by-law", in_force_from="2020-01-01"),
    Passage("ca-8", "A dog may run free in a public park.", title="Park rules, s. 8 (old)", source="parks",
            region="Ontario", language="en", kind="by-law", in_force_from="2001-01-01", in_force_to="2019-12-31"),
    Passage("cn-82", "用人单位未与劳动者订立书面劳动合同的，应当向劳动者每月支付二倍的工资。",
            title="劳动合同法 第八十二条", source="劳动合同法", region="全国", language="zh", kind="law"),
    Passage("cn-js", "互联网地图服务单位应当将存放地图数据的服务器设在境内。", title="江苏省地图管理办法 第二十条",
            source="江苏省地图管理办法", region="江苏", language="zh", kind="rule"),
]  # fmt: skip
