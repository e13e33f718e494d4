"""What a network takes image files for: predict.py RUN IMAGE..."""
import sys

import sat

load, *files = sys.argv[1:]
with sat.load(load) as net:
    logits = net.predict(files)  # or RGB arrays [N,H,W,3], uint8 or float
    for name, scores in zip(files, logits):
        best = scores.argsort()[::-1][:3]
        print(name, *('{} {:.2f}'.format(net.classes[k], scores[k]) for k in best), sep='\t')
