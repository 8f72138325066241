"""Does to an index what standard input says, line by line, and answers each on standard output."""

import json
import sys

from retrieval_toys import Words

from retrieval.passage import Passage
from retrieval.search.index import Index

index = Index.open(sys.argv[1], create=True, embedder=Words())
for line in sys.stdin:
    order = json.loads(line)
    if "add" in order:
        print(index.add(Passage(key, text) for key, text in order["add"]), flush=True)
    elif "withdraw" in order:
        print(index.withdraw(order["withdraw"]), flush=True)
    elif "search" in order:
        print(json.dumps([hit.id for hit in index.search(order["search"], 3)]), flush=True)
    else:
        print(index.backend.compact(always=True), flush=True)
