"""Attack some images of a validation set and draw what comes out: attack.py RUN [FOLDER]"""
import sys

import sat

with sat.load(sys.argv[1]) as net:
    sample = net.images(*sys.argv[2:], count=8)  # of scikit-learn's digits without a folder
    said = net.predict(sample.images).argmax(1)
    adv = net.attack(sample.images, sample.labels, 'pgd', epsilon=32, steps=10, seed=0)
    print('right: {} of 8, under {}: {} of 8'.format(
        (said == sample.labels).sum(), adv.attack['name'], (adv.prediction == sample.labels).sum()))
    sat.picture([sample.images, adv.images], names=['clean', 'attacked'], captions=[
        [net.classes[k] for k in labels] for labels in (said, adv.prediction)]).save('attacked.png')
