"""Judge a network clean and under attack, at several radii: evaluate.py RUN [FOLDER]"""
import sys

import sat

with sat.load(sys.argv[1]) as net:
    for epsilon in 4, 16:
        # The content of results.json, as of `main.py --eval`.
        results = net.evaluate(*sys.argv[2:], attack='pgd', epsilon=epsilon, steps=10)
        robust = 1 - results['adversarial']['top1_error']
        low, high = (1 - bound for bound in reversed(results['adversarial']['top1_error_95']))
        print('epsilon {}: {:.1%} ({:.1%} to {:.1%}) of {} images'.format(
            epsilon, robust, low, high, results['num_images']))
