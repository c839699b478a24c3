"""Exact solutions of small problems, the reference for every estimator.

    from advantage import theory
    theory.values(mdp, policy)

Every public function of this package's files is a name here.
"""

from advantage.theory.beliefs import AlphaVectors as AlphaVectors
from advantage.theory.beliefs import BeliefMDP as BeliefMDP
from advantage.theory.beliefs import alpha_vectors as alpha_vectors
from advantage.theory.beliefs import belief_mdp as belief_mdp
from advantage.theory.beliefs import belief_of_history as belief_of_history
from advantage.theory.beliefs import observation_probabilities as observation_probabilities
from advantage.theory.beliefs import prune as prune
from advantage.theory.beliefs import update_belief as update_belief
from advantage.theory.chains import CommunicatingClass as CommunicatingClass
from advantage.theory.chains import closed_classes as closed_classes
from advantage.theory.chains import communicating_classes as communicating_classes
from advantage.theory.chains import distribution_after as distribution_after
from advantage.theory.chains import is_ergodic as is_ergodic
from advantage.theory.chains import is_irreducible as is_irreducible
from advantage.theory.chains import leading_to as leading_to
from advantage.theory.chains import period as period
from advantage.theory.chains import reached_from as reached_from
from advantage.theory.chains import stationary_distribution as stationary_distribution
from advantage.theory.games import SolvedGame as SolvedGame
from advantage.theory.games import solve_game as solve_game
from advantage.theory.improvement import Improvement as Improvement
from advantage.theory.improvement import guaranteed_policy_iteration as guaranteed_policy_iteration
from advantage.theory.improvement import lower_bound as lower_bound
from advantage.theory.improvement import max_kl as max_kl
from advantage.theory.improvement import maximise_within_kl as maximise_within_kl
from advantage.theory.improvement import penalised_improvement as penalised_improvement
from advantage.theory.improvement import penalty_constant as penalty_constant
from advantage.theory.improvement import performance_difference as performance_difference
from advantage.theory.improvement import surrogate as surrogate
from advantage.theory.objectives import differential_action_values as differential_action_values
from advantage.theory.objectives import differential_advantages as differential_advantages
from advantage.theory.objectives import finite_horizon_action_values as finite_horizon_action_values
from advantage.theory.objectives import finite_horizon_advantages as finite_horizon_advantages
from advantage.theory.objectives import finite_horizon_performance as finite_horizon_performance
from advantage.theory.objectives import finite_horizon_values as finite_horizon_values
from advantage.theory.objectives import gain_and_bias as gain_and_bias
from advantage.theory.policy_evaluation import action_values as action_values
from advantage.theory.policy_evaluation import advantages as advantages
from advantage.theory.policy_evaluation import expected_rewards as expected_rewards
from advantage.theory.policy_evaluation import expected_visits as expected_visits
from advantage.theory.policy_evaluation import performance as performance
from advantage.theory.policy_evaluation import values as values
from advantage.theory.policy_evaluation import variances as variances
from advantage.theory.policy_evaluation import visitation as visitation
from advantage.theory.policy_gradient import Policy as Policy
from advantage.theory.policy_gradient import finite_horizon_gradient as finite_horizon_gradient
from advantage.theory.policy_gradient import fisher_matrix as fisher_matrix
from advantage.theory.policy_gradient import gain_gradient as gain_gradient
from advantage.theory.policy_gradient import natural_gradient as natural_gradient
from advantage.theory.policy_gradient import performance_gradient as performance_gradient
from advantage.theory.policy_gradient import policy_gradient as policy_gradient
from advantage.theory.policy_gradient import probabilities as probabilities
from advantage.theory.soft_values import soft_value_iteration as soft_value_iteration
