"""SAT Section 3: whose gradients must be smooth, the attacker's or the update's?"""
from studies.activations import BASE, cell_of
from studies.figures import bars
from studies.scales import CLEAN, PGD
from studies.study import JUDGED, Arm, Claim, Study

# SAT Sec 3.2: ReLU in the forward pass, in the backward pass the derivative of Parametric Softplus; its alpha of 10 is
# unverified.
_SMOOTH = 'parametric_softplus'
_ATTACKER, _UPDATE = ('--attack-gradient', _SMOOTH), ('--update-gradient', _SMOOTH)
_RELU = ('--activation-name', BASE)

NEITHER = Arm(BASE, _RELU)
_ARMS = (NEITHER, Arm('attacker', (*_RELU, *_ATTACKER), base=BASE), Arm('update', (*_RELU, *_UPDATE), base=BASE),
         Arm('both', (*_RELU, *_ATTACKER, *_UPDATE), base=BASE))

STUDY = Study(
    'gradients', 'SAT Section 3', 'ReLU forward, a smooth derivative backward: for the attacker, the update, both?',
    lambda scale: _ARMS, cell_of, JUDGED,
    [Claim('a smooth derivative for the attacker raises robustness', 'attacker', BASE, PGD, 1),
     Claim('... and costs a little accuracy', 'attacker', BASE, CLEAN, -1),
     Claim('a smooth derivative for the update raises robustness', 'update', BASE, PGD, 1),
     Claim('... and clean accuracy', 'update', BASE, CLEAN, 1),
     Claim('for both it raises robustness', 'both', BASE, PGD, 1),
     Claim('... more than for the attacker alone', 'both', 'attacker', PGD, 1),
     Claim('... more than for the update alone', 'both', 'update', PGD, 1)],
    'Directions only are known of the paper\'s section; see activations for the size of the network.', bars)
