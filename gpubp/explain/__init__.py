"""See backpropagation work: every quantity, every path, every equation, checked.

    net.trace(x, y)                               z, a, sigma', delta, nabla_b, nabla_w, labelled
    explain.perturb_input(net, x, y, 2, 0)        the demon: the real change of C beside delta dz
    explain.paths(net, x, y, layer=2, j=0, k=0)   a gradient as the sum over paths
    explain.matrix_form(net, x, y)                BP1 and BP2 as a product of matrices
    net.gradcheck(x, y)                           against the complex step
    explain.check_equations(bp2=mine)             your own equations, and the mistake by name
    net.health(x, y)                              saturated, dead and slow, and what to do
    explain.design("z/(1 + abs(z))")              an activation of your own beside sigmoid

Layers are numbered as in the equations, from 2 to L; neurons and examples from 0. All of it is
written against the backend's array library, and computed in float64 where digits matter.
"""

from .demon import Perturbation, perturb_input, perturb_weight
from .design import Design, Portrait, design
from .gradients import ArrayCheck, GradCheck, gradcheck
from .matrices import MatrixForm, matrix_form
from .mistakes import EquationReport, Verdict, check_equations
from .page import explain_page
from .pathsum import Path, Paths, paths, rate_factors
from .tracing import LayerTrace, Trace, trace
from .vitals import Health, HealthMonitor, LayerHealth, health

__all__ = [
    "ArrayCheck",
    "Design",
    "EquationReport",
    "GradCheck",
    "Health",
    "HealthMonitor",
    "LayerHealth",
    "LayerTrace",
    "MatrixForm",
    "Path",
    "Paths",
    "Perturbation",
    "Portrait",
    "Trace",
    "Verdict",
    "check_equations",
    "design",
    "explain_page",
    "gradcheck",
    "health",
    "matrix_form",
    "paths",
    "perturb_input",
    "perturb_weight",
    "rate_factors",
    "trace",
]
