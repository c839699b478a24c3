"""What small models in tests share: their states are their observations, and every action is possible."""


class StateModel:
    sign = 1.0

    def begin(self, obs):
        return obs

    def observation(self, state):
        return state

    def allowed(self, state):
        return None
